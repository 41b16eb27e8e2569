//go:build race

package main

// raceDetector multiplies the memory that a worker takes.
const raceDetector = true
