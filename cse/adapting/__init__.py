"""A sentence encoder made better on a person's own text, in one word: `cse adapt`."""
