package machnet_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	machnet "github.com/machnet/machnet/go"
)

// Structs come from the header itself, through cgo; the constants are Go's own. $LAYOUT_TABLE names what ci/layout.sh printed.
func TestTheConstantsAreThoseOfTheHeader(t *testing.T) {
	path := os.Getenv("LAYOUT_TABLE")
	if path == "" {
		t.Skip("LAYOUT_TABLE does not name the output of ci/layout.sh")
	}
	table, err := os.ReadFile(path)
	must(t, err)
	source, err := os.ReadFile("errors.go")
	must(t, err)
	codes := map[string]string{}
	for _, found := range regexp.MustCompile(`(?m)^\tErr(\w+) Code = (\d+)$`).FindAllStringSubmatch(string(source), -1) {
		codes[strings.ToLower(found[1])] = found[2]
	}
	compared := 0
	for _, line := range strings.Split(string(table), "\n") {
		var name, value string
		if n, _ := fmt.Sscanf(line, "constant %s %s", &name, &value); n < 2 {
			continue
		}
		if name == "MACHNET_MSG_MAX_LEN" && value != fmt.Sprint(machnet.MaxMessage) {
			t.Errorf("MaxMessage is %d, not %s", machnet.MaxMessage, value)
		}
		status, isStatus := strings.CutPrefix(name, "MACHNET_STATUS_")
		if !isStatus || status == "OK" {
			continue
		}
		if code := codes[strings.ToLower(strings.ReplaceAll(status, "_", ""))]; code != value {
			t.Errorf("%s is %s, and here %q", name, value, code)
		}
		compared++
	}
	if compared == 0 || compared != len(codes) {
		t.Errorf("%d codes here, and %d in the header", len(codes), compared)
	}
}
