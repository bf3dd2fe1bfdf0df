"""Requests on local disk, from before they are acknowledged until they are delivered."""
