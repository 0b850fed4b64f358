"""The worker as a service: tasks, the node's client, heartbeat."""
