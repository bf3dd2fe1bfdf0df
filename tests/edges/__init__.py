"""Clients, sockets and a server's edges in memory."""
