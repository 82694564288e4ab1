"""`qgf lab`: teaching material, beside docs/. One page on which the knobs of guidance can be turned.

testbed.py   flows and critics known in closed form; tests hold the samplers to them too
lab.py       our own code's numbers for them, and the page
flow.js      the mathematics; `plane.js`, `panels_*.js` what is drawn; `work.js` what takes longer, the
             comparison with our own numbers among it; `knobs.js` the rest; `lab.html.j2` the words
"""
