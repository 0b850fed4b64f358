"""From a model's words to findings: the way of a text, and where a rule goes.

The way of a text, each step in one file that knows nothing of the later ones:

1. `sentences` (with `lines`) cuts a text up and tells findings from requests and questions.
2. `lexicon` (with `lexicon.toml`) says what each word does; `spelling` and `shorthand` mend words.
3. `tokens` makes a sentence a row of tokens: words, numbers, levels, ranges.
4. `clauses` parts a sentence and fills in what a part leaves out; `phrase` is a window over
   tokens, one per fracture.
5. `bones` reads which bones, sides and parts a window names.
6. `rules` decide what the words around a fracture do to it.
7. `weigh` gathers the verdicts of all sentences as `entries` and concludes.
8. `findings` is the door: `parse(text)` answers, `explain(text)` says why; `result` is the answer.

Where does my rule go? A word: into `lexicon.toml`, under the kind that says what it does. A way of
speaking: into the file of `rules` whose first sentence fits, as a `Rule` with an example and a
counter-example, which are its tests. A bone or a part of one: `lexicon.toml`, then `bones`.
"""
