"""Mutation testing: how many small faults in a module its own tests notice."""
