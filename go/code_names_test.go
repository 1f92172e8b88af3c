package machnet

import "testing"

func TestTheTableOfCodeNamesIsThatOfTheLibrary(t *testing.T) {
	for code := Code(-1); code <= ErrInternal+1; code++ {
		name, listed := codeNames[code]
		if of := nameOf(code); listed && of != name {
			t.Errorf("%d is %s in the table and %s in the library", code, name, of)
		} else if !listed && code > 0 && of != nameOf(-1) {
			t.Errorf("%d, %s, is missing in the table", code, of)
		}
	}
}
