"""A backbone made ready: adapters injected, several of them, ranks by budget, what is saved and loaded."""
