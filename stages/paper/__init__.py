"""The paper's other figures: 4 to 7."""
