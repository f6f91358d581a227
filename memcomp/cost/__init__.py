"""What programs cost: FLOPs, bytes, collectives, and the chips that run them."""
