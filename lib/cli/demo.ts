/** What the demo asks where there is neither a question nor a terminal; all within what the calculator answers. */
export const demoQuestions: readonly string[] = [
  'What is 1234 * 5678?',
  "How many r's are in strawberry?",
  'Anna buys 4 pens at $3 each and pays with $20. How much change does she get?',
  '48 friends share 21168 bottles equally. How many does each get?',
  'What is 123456789 * 987654321?',
  'Who are you?'
]
