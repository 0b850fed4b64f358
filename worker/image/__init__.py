"""From the stored bytes of an Instance to the picture that a model sees.

`pixels.radiograph` is the way:

1. `part10` reads the file, as far as it can be read; `header` makes one value of what it says.
2. `gate` asks the header, with the words of `vocabulary`, whether this is a frontal chest.
3. `decode` compares the `codestream` with the header; its child (`decoders`) makes pixels of it.
4. `halving` averages pixels that the model does not need.
5. `shutter` finds what may be seen.
6. `grey` composes Modality LUT, VOI and polarity into one table and looks every pixel up in it.
7. `geometry` makes pixels square and brings the patient's right to the viewer's left.
8. `screen` doubts what does not look like an upright frontal chest.
9. `files` takes the same way for PNG, JPEG, TIFF and WebP, which have no header.
10. `stages` shows each step on one sheet; `encode` makes Instances for self-tests.
"""
