"""Generated from proto/precall/v1 by `make gen`. Do not edit."""
