"""Policy versions: LoRA adapters that are checked, stored, loaded and activated."""
