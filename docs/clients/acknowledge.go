// Acknowledges for a hook, over TLS with a client certificate: go run acknowledge.go
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

func main() {
	log.SetFlags(0)
	directory := os.Getenv("KRAKE_CERT")
	if directory == "" {
		directory = "/etc/krake_cert"
	}
	client, err := clientWith(directory)
	if err != nil {
		log.Fatal(err)
	}
	body, _ := json.Marshal(map[string]string{"token": os.Getenv("KRAKE_TOKEN")})
	request, err := http.NewRequest(http.MethodPut, os.Getenv("KRAKE_COMPLETE_URL"), bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, string(said))
	if answer.StatusCode != http.StatusOK {
		os.Exit(1)
	}
}

// clientWith reads the files anew, so call it for each acknowledgement, or after a failed one.
func clientWith(directory string) (*http.Client, error) {
	authorities, err := os.ReadFile(filepath.Join(directory, "ca-bundle.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("no certificate in %s/ca-bundle.pem", directory)
	}
	// One read of one file: key and certificate are of the same renewal.
	bundle, err := os.ReadFile(filepath.Join(directory, "bundle.pem"))
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{
			RootCAs:      roots,
			Certificates: []tls.Certificate{certificate},
		}},
	}, nil
}
