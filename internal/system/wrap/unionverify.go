package wrap

import (
	"context"
	"iter"

	"cairn"
)

// Verify implements cairn.Verifier.
func (u *union) Verify(ctx context.Context, dataset string, id cairn.VersionID) (cairn.Coverage, error) {
	v, err := can(ctx, u, "verify", dataset, func(e *cairn.Endpoint) cairn.Verifier { return e.Verifies })
	if err != nil {
		return cairn.Coverage{}, err
	}
	return v.Verify(ctx, dataset, id)
}

// Seal implements cairn.Sealer.
func (u *union) Seal(ctx context.Context, dataset string, sealed bool) error {
	s, err := can(ctx, u, "seal", dataset, func(e *cairn.Endpoint) cairn.Sealer { return e.Seals })
	if err != nil {
		return err
	}
	return s.Seal(ctx, dataset, sealed)
}

// Digest implements cairn.Digester.
func (u *union) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	d, err := can(ctx, u, "digest", dataset, func(e *cairn.Endpoint) cairn.Digester { return e.Digests })
	if err != nil {
		return func(yield func(cairn.Digest, error) bool) { yield(cairn.Digest{}, err) }
	}
	return d.Digest(ctx, dataset, id, q)
}

// Heal implements cairn.Healer.
func (u *union) Heal(ctx context.Context, dataset string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	h, err := can(ctx, u, "heal", dataset, func(e *cairn.Endpoint) cairn.Healer { return e.Heals })
	if err != nil {
		return nil, err
	}
	return h.Heal(ctx, dataset, id, patches, o)
}
