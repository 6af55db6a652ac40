"""OpenID Connect: a provider and its keys, ID tokens, and sign-in in a browser by authorization code."""
