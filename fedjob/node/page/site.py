"""The owner's page, put together: its desk, what it shows, and what it changes."""

from __future__ import annotations

from fedjob.common.pages.password import PagePassword
from fedjob.common.pages.people import PageDoor
from fedjob.common.pages.site import PageSite
from fedjob.node.config.home import NodeHome
from fedjob.node.grants.deciders import names_of
from fedjob.node.page.actions import OwnerActions, state_seen
from fedjob.node.page.desk import open_desk
from fedjob.node.page.views import OwnerViews


def owner_site(
    home: NodeHome,
    *,
    port: int,
    outer_url: str = "",
    password: PagePassword | None = None,
    door: PageDoor | None = None,
) -> PageSite:
    """Return the page of a node's home; the daemon may run or not, and several pages may be open at once.

    Args:
        port: of loopback that it is served on.
        outer_url: under which a web server shows it; empty for none.
        password: what opens it beside a link.
        door: a provider at which people sign in.

    Raises:
        ConfigError: the folder is no node's home, or can't be written.
    """
    desk = open_desk(home)
    desk.templates.environment.globals["state_seen"] = state_seen
    desk.templates.environment.filters["names"] = names_of
    routes = [*OwnerViews(desk).routes(), *OwnerActions(desk).routes()]
    return PageSite(desk.templates, routes, port=port, outer_url=outer_url, password=password, door=door)
