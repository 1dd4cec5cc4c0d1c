"""Pictures: poses over photographs, fabric diagrams and training curves."""
