"""The actions of the API: one module for each ECS resource, one function for each action."""
