"""minicontainer.registry: the distribution API from both sides: `client` pulls and pushes, `server` keeps, serves."""
