"""Registry: the distribution API from both sides: `client` pulls and pushes, `server` keeps and serves."""
