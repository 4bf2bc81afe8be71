"""What completions and solutions say, for answers of every type: thoughts, marks, headings, boxes, denials, sentences."""
