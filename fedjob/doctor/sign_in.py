"""The check of a page's sign-in at an OpenID provider: the provider, its keys, the clock, the client's secret, the way back."""

from __future__ import annotations

import email.utils
import secrets
import time
from urllib.parse import urlsplit

from fedjob.common.errors import FedjobError, NotPermitted, RepositoryUnreachable
from fedjob.doctor.findings import Finding
from fedjob.identity.openid.code_flow import BrowserClient, CodeFlow, post_as_client
from fedjob.identity.openid.id_tokens import LEEWAY_S, ProviderKeys
from fedjob.identity.openid.provider import WELL_KNOWN, Provider, refusal_words

_ELSEWHERE = (301, 302, 303, 307, 308)


def examine_sign_in(client: BrowserClient) -> list[Finding]:
    """Check a page's sign-in, in order; stop where nothing after can work. Nobody is signed in by it.

    Args:
        client: without a redirect URL where it is not known, which then is not checked.
    """
    try:
        flow = CodeFlow(client)
        provider = flow.provider()
        url = flow.begin().url
    except FedjobError as error:
        return [_no_provider(client, error)]
    findings = [Finding("sign-in", True, f"{provider.issuer} answers")]
    way_back = _way_back(client, url) if client.redirect_url else None
    checks = (_keys(client, provider), _clock(client), _secret(client, provider), way_back)
    return [*findings, *(found for found in checks if found is not None)]


def _no_provider(client: BrowserClient, error: FedjobError) -> Finding:
    if isinstance(error, RepositoryUnreachable):
        advice = "see that the address is right, and that this machine may reach it: settings page_issuer, page_tls_ca, proxy"
        return Finding("sign-in", False, str(error), advice, "your IT")
    advice = f"give page_issuer as the provider's document says it: {client.issuer}{WELL_KNOWN}"
    return Finding("sign-in", False, str(error), advice, "you")


def _keys(client: BrowserClient, provider: Provider) -> Finding:
    keys = ProviderKeys(provider, client.line)
    try:
        keys.find(secrets.token_hex(8))
    except NotPermitted:
        return Finding("sign-in keys", True, "the provider's keys can be read")  # but for one that nobody has
    except FedjobError as error:
        return Finding(
            "sign-in keys", False, str(error), f"see what answers at {provider.jwks_url}", "your IT"
        )
    return Finding("sign-in keys", True, "the provider's keys can be read")


def _clock(client: BrowserClient) -> Finding | None:
    """Check this machine's clock against the date of an answer of the provider, where it gives one."""
    try:
        headers = client.line.call("GET", client.issuer + WELL_KNOWN).headers
        at = email.utils.parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (FedjobError, ValueError, TypeError):
        return None
    off = time.time() - at
    if abs(off) > LEEWAY_S:
        found = (
            f"this machine's clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the provider's"
        )
        return Finding(
            "sign-in clock", False, found, "set the clock of this machine, such as with chrony", "your IT"
        )
    return Finding("sign-in clock", True, "this machine and the provider agree within a minute")


def _secret(client: BrowserClient, provider: Provider) -> Finding:
    """Check the client with a code that nobody was given: the provider looks at the client first."""
    form = {
        "grant_type": "authorization_code",
        "code": secrets.token_urlsafe(24),
        **({"redirect_uri": client.redirect_url} if client.redirect_url else {}),
        "code_verifier": secrets.token_urlsafe(32),
    }
    try:
        status, answer = post_as_client(client, provider, form)
    except FedjobError as error:
        return Finding(
            "sign-in client", False, str(error), f"see what answers at {provider.token_url}", "your IT"
        )
    error_name = answer.get("error")
    if error_name == "invalid_grant":
        return Finding("sign-in client", True, f"the provider knows {client.client_id} and its secret")
    found = f"the provider refuses {client.client_id} (status {status}): {refusal_words(answer)}"
    if error_name in ("invalid_client", "unauthorized_client") or status == 401:
        advice = (
            "give the client's name and secret as the provider has them: page_client_id, page_secret_file"
        )
        return Finding("sign-in client", False, found, advice, "you")
    return Finding(
        "sign-in client", False, found, "allow the client authorization codes with PKCE", "your IT"
    )


def _way_back(client: BrowserClient, url: str) -> Finding:
    """Check that the provider would send a browser back here; it is asked to without showing anything."""
    advice = f"register {client.redirect_url} as redirect URL of {client.client_id} at the provider"
    try:
        answer = client.line.call("GET", f"{url}&prompt=none", accept=(*_ELSEWHERE, 400, 401, 403))
    except FedjobError as error:
        return Finding(
            "sign-in redirect URL", False, f"the provider shows no sign-in: {error}", advice, "your IT"
        )
    if answer.status not in _ELSEWHERE:
        found = f"the provider refuses {client.redirect_url} (status {answer.status})"
        return Finding("sign-in redirect URL", False, found, advice, "your IT")
    target = answer.headers.get("Location", "")
    query = urlsplit(target).query
    if target.startswith(client.redirect_url) and "error=" in query and "login_required" not in query:
        if "interaction_required" in query or "consent_required" in query or "account_selection" in query:
            return Finding(
                "sign-in redirect URL", True, f"the provider sends browsers back to {client.redirect_url}"
            )
        found = f"the provider refuses the sign-in: {query[:200]}"
        return Finding(
            "sign-in redirect URL", False, found, "see page_scopes, and what the client may do", "your IT"
        )
    return Finding("sign-in redirect URL", True, f"the provider takes {client.redirect_url}")
