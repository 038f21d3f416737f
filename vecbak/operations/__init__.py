"""What vecbak does, one verb a module; operations neither print nor exit."""
