package problem_test

import (
	"fmt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/problem"
)

func ExampleOf() {
	p := problem.Of(fmt.Errorf("verify: %w", auth.ErrTokenExpired))
	fmt.Println(p.Status, p.Header["Www-Authenticate"])
	fmt.Println(string(p.Body))
	// Output:
	// 401 Bearer realm="zyotra", error="invalid_token"
	// {"type":"urn:zyotra:auth:problem:token_expired","title":"Unauthorized","status":401,"detail":"The token has expired.","code":"token_expired","message":"The token has expired."}
}
