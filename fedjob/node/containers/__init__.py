"""Workers in containers, by podman or docker."""
