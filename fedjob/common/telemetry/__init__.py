"""Health, metrics and logs of hubs, nodes and runners, for those who keep watch over them."""
