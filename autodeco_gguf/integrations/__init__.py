"""Plugins for programs of others."""
