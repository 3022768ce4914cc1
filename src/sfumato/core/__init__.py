"""What every room stands on: the record of terms, the nouns, schedules, numerics, the spec of objects."""
