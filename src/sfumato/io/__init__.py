"""What is written and read: the run folder, checkpoints, model folders. json and safetensors, never a pickle."""
