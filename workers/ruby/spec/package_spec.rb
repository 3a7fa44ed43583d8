# frozen_string_literal: true

require "open3"

# The gem as it is installed, with what its README says: every block of it is run as it stands there.
RSpec.describe "the package" do
  README = File.read(File.expand_path("../README.md", HERE), encoding: "UTF-8")
  BLOCKS = README.scan(%r{(?:`(hello/[^`]+)`\n\n)?```(\w+)\n(.*?)```}m).freeze

  # An empty folder with nothing in it but the README's files and a place for gems.
  before(:all) do
    @project = "#{Shared.folder}/project"
    FileUtils.mkdir_p(@project)
    File.chmod(0o755, @project)
    BLOCKS.each do |path, _, code|
      next unless path

      FileUtils.mkdir_p(File.dirname("#{@project}/#{path}"))
      File.write("#{@project}/#{path}", code)
    end
    made, status = Open3.capture2e("rake", "gem", chdir: File.dirname(HERE))
    expect(status.success?).to be(true), made
    gem = File.expand_path("../../../target/ruby/tasker-rb.gem", HERE)
    ran("gem", "install", "--local", "--no-document", "--quiet", "--install-dir", "#{@project}/gems", gem)
    raise "the README names another command" unless README.include?("tasker dev --templates hello/templates\n")

    @hello = Server.new(@project, templates: "#{@project}/hello/templates")
  end
  after(:all) { @hello&.stop }

  # What the project's programs find: its own gems first, those of this machine for RSpec.
  def settings
    path = [File.join(@project, "gems/bin"), File.dirname(Server::BINARY), ENV.fetch("PATH")].join(File::PATH_SEPARATOR)
    gems = ["#{@project}/gems", *Gem.path].uniq.join(File::PATH_SEPARATOR)
    { PATH: path, GEM_HOME: "#{@project}/gems", GEM_PATH: gems, RUBYLIB: nil, RUBYOPT: nil }
  end

  # Runs a command in the project; answers what it printed.
  def ran(*command)
    environment = environment(**settings, **(@hello&.settings || {}))
    said, told, status = Open3.capture3(environment, *command, chdir: @project)
    expect(status.success?).to be(true), [command, said, told].join("\n")
    said
  end

  # The line of the README that begins like this.
  def line(beginning)
    lines = README.lines(chomp: true).select { |line| line.start_with?(beginning) }
    expect(lines.size).to eq(1)
    lines.first
  end

  it "runs what its README says in an empty project" do
    command = line("DATABASE_URL=postgres://… tasker-worker-ruby").delete_prefix("DATABASE_URL=postgres://… ")
    command = ["sh", "-c", "cd #{@project} && exec #{command}"]
    worker = WorkerProgram.new(@hello, "#{@project}/worker.log", command: command, **settings)
    created = JSON.parse(ran("sh", "-c", "#{line("tasker task create")} --json"))
    promised = JSON.parse(README[/The result of `deliver` is `(\{.*?\})`/, 1])
    deliver = @hello.steps(created["task_uuid"])["deliver"]
    expect([created["status"], deliver["results"]]).to eq(["complete", promised])
    audit = ran("sh", "-c", line("tasker task step-audit").sub("TASK", created["task_uuid"]))
    expect(audit).to include("nobody was at home").and include("success")

    blocks = BLOCKS.filter_map { |path, language, code| code if language == "ruby" && !path }
    tests, snippets = blocks.partition { |code| code.include?("RSpec.describe") }
    File.write("#{@project}/hello_spec.rb", tests.join("\n"))
    expect(ran("rspec", "hello_spec.rb")).to include("2 examples, 0 failures")
    where = "raise 'another gem' unless TaskerCore.method(:logger).source_location.first.start_with?(Dir.pwd)"
    File.write("#{@project}/snippets.rb", ["require 'tasker_core'", where, *snippets].join("\n"))
    expect(ran(RbConfig.ruby, "snippets.rb")).to eq("complete\n"), "what its client prints"
    expect(worker.terminate).to eq(0), File.read(worker.log)
  end

  it "has its command and its extension, and leaves tests and examples out" do
    installed, = Dir["#{@project}/gems/gems/tasker-rb-*"]
    folders = Dir.children(installed)
    expect(folders).to match_array(%w[README.md exe lib])
    expect(Dir.children("#{installed}/lib/tasker_core")).to include("tasker_ruby.#{RbConfig::CONFIG["DLEXT"]}")
    expect(ran("tasker-worker-ruby", "--version")).to match(/\A\d+\.\d+\.\d+\n\z/)
  end
end
