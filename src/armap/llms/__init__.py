"""Language models: each answers messages."""
