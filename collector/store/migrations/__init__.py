"""The migrations of the store's tables from each schema to the next."""
