"""One paper, one file: config, presets, wiring, initialisation, weight names, departures."""
