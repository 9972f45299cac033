"""What users know from elsewhere, in our own loop: adapters of PEFT, and training all weights."""
