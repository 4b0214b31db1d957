COMMIT: str
