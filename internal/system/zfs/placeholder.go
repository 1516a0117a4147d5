package zfs

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cairn"
)

// Placeholder reports whether a dataset is one that a receive made to hold others:
// zrepl:placeholder is set on itself. It is asked for alone, so that no property of
// another dataset can answer for it.
func (p *Place) Placeholder(ctx context.Context, name string) (bool, error) {
	const op = "look at placeholder"
	if err := checkDataset(name); err != nil {
		return false, err
	}
	text, err := p.output(ctx, "get", "-H", "-p", "-o", "source,value", placeholderProperty, name)
	if err != nil {
		return false, p.failed(op, name, err)
	}
	sum := sha512.Sum512_256([]byte(name))
	return text == "local\ton\n" || text == "local\t"+hex.EncodeToString(sum[:])+"\n", nil
}

// parents makes placeholders for the parents of a dataset that are not there.
func (s *side) parents(ctx context.Context, op, name string) error {
	var missing []string
	for above := parent(name); above != ""; above = parent(above) {
		_, err := s.place.look(ctx, op, above)
		if err == nil {
			break
		}
		if !errors.Is(err, cairn.KindNotFound) {
			return err
		}
		missing = append(missing, above)
	}
	for _, above := range slices.Backward(missing) {
		if parent(above) == "" {
			return &cairn.Error{Op: op, Subject: name, Kind: cairn.KindNotFound, Err: fmt.Errorf("there is no pool %s", above), Hint: "import or create it; `zpool list` shows what there is"}
		}
		if err := s.placeholder(ctx, above); err != nil {
			return err
		}
	}
	return nil
}

func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}

// placeholder makes one.
func (s *side) placeholder(ctx context.Context, name string) error {
	args := []string{"create", "-o", placeholderProperty + "=on", "-o", "mountpoint=none"}
	o := s.job.Receive
	switch {
	case o.Placeholder == Off:
		args = append(args, "-o", "encryption=off")
	case o.Placeholder == Unspecified && (o.Root == "" || parent(name) != o.Root && name != o.Root):
		return &cairn.Error{Op: "create placeholder", Subject: name, Kind: cairn.KindConfig,
			Err: errors.New("it is not said whether placeholders are to be encrypted"), Hint: "set recv: {placeholder: {encryption: inherit}} or off"}
	}
	s.place.uncover()
	err := s.place.failed("create placeholder", name, s.place.run(ctx, append(args, name)...))
	if errors.Is(err, cairn.KindExists) {
		return nil // a receive beside this one made it
	}
	return err
}
