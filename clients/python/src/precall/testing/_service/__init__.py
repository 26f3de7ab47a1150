"""Copies of modules of the service, made by `make gen`. Do not edit."""
