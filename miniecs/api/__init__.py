"""One module per ECS resource, one function per ECS action."""
