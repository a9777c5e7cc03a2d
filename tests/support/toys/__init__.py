"""One toy for each joint, made as docs/architecture.md says: a transport, a format, a seal."""
