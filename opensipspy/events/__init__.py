"""Events: declaration, subscription, delivery."""
