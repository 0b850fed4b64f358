"""A steady load through node and worker: what grows shows as a slope."""
