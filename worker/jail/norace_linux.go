//go:build !race

package jail

const raceEnabled = false

var raceCalls []uint32
