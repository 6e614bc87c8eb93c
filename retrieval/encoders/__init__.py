"""Query encoders: a user's watch history as a vector, or as several. One interface (`Encoder`), chosen by name."""
