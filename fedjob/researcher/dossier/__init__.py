"""The dossier of a job: one signed file of what a data protection officer or an ethics board asks."""
