"""Telling people and programs outside: signed webhooks and mails, tried until they arrive."""
