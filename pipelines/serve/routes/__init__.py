"""The routes, a router for each kind of thing that a client may ask for."""
