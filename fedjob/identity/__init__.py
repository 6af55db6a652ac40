"""Who is who in a federation."""
