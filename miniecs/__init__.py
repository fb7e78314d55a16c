"""miniecs: an orchestrator that speaks the Amazon ECS protocols, on minicontainer."""
