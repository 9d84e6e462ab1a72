"""What earlier queries leave for later ones: their answers, and what they prove of pages. No answer is worse for it."""
