"""The nouns and the laws: terms, interfaces, schedules, numerics, specifications, errors."""
