"""The web application: jobs in a database, workers, an HTTP API and pages."""
